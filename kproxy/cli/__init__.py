"""What people type: arguments, help and one module for each group of commands."""
