"""Segmentation networks that people take home: SegFormer and other AutoModels, DeepLabV1 with a ResNet38."""
