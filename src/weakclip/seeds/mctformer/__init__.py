"""MCTformer (Xu et al., CVPR 2022): class activation maps of class tokens, trained on image-level labels."""
