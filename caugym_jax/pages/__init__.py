"""Pages that a person looks at: runs and evaluations, drawn on one offline page."""
