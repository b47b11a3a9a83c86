"""Training on the server: records, datasets on disk, the queue, the processes, promotion."""
