"""A local page on which a person looks at the masks of a run and marks them; `weakclip review`."""
