"""Devices: meshes and sharding, processes, compiled programs, what chips can do."""
