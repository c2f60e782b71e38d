"""The whole fleet's rate: several pipelines, and devices side by side in a stage, as a flow of tokens."""
