"""A small trained network and the images that it classifies, shipped with bnhw or one of its extras."""
