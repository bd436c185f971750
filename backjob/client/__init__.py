"""``environ["backjob"]`` outside of a job and ``application.jobs``: start jobs, query them, end them."""
