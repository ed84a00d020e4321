"""What a run is judged by: error counts that add up, speed, padding, cost. Pure; nothing here reads or writes."""
