"""What runs the assets, and when."""
