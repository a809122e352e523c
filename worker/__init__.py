"""Binds Celery tasks to models: claims jobs, runs them, stores what they make."""
