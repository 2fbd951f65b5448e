"""Image-level labels proposed by a frozen CLIP, for a person to correct."""
