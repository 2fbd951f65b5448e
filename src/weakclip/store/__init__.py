"""Results on disk: files, locks, threads, progress, and readers of files from elsewhere."""
