"""One command for each headline figure, the peers beside ours in the same run."""
