"""The format `web`: a static folder with a page that classifies images, gated in a browser."""
