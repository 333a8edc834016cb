"""The training loop on Lightning Fabric, and what every task's runs share: settings, run directories, reports."""
