"""Settings and the attached resources: database, blobs, events, queue. Knows no torch and no HTTP."""
