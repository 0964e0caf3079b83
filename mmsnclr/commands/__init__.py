"""One module for each verb of the command line, thin over `mmsnclr.api`."""
