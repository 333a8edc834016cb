"""One short loop on Lightning Fabric, recipes, run folders."""
