"""The tools that come with the service; each module registers its functions."""
