"""The run of a job: ``environ["backjob"]`` inside of it, its progress, and its outcome."""
