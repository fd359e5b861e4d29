"""What a training run is made of besides the network: its folder, log, validation, processes."""
