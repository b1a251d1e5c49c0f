"""What mpsr asks of the operating system."""
