"""Archives for the VOC evaluation server."""
