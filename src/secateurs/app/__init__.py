"""The application around the library: command line, training, data, models, reports. The library never imports it."""
