"""The exact causal engine: graphs, models, estimands, identification, solving, generating."""
