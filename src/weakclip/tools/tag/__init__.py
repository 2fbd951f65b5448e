"""Image-level labels proposed by a frozen CLIP, for a person to correct."""

from weakclip.tools.tag.table import Tagging, write_labels
from weakclip.tools.tag.zero_shot import Tagger, TagSettings, tag_windows

__all__ = ["TagSettings", "Tagger", "Tagging", "tag_windows", "write_labels"]
