"""What a request spends its time on: its phases, for the metrics, and for traces where those are wanted."""
