"""What became of the requests that were labelled: heard, counted, sent on in batches."""
