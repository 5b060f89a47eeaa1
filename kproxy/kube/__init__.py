"""kubeconfig files by client-go's rules."""
