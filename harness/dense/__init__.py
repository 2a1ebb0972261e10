"""Dense prediction: heads for segmentation and detection on the backbones, their data, losses and metrics."""
