"""Datasets with references transcribed by the ordinary flow and scored by the Open ASR leaderboard's protocol."""
