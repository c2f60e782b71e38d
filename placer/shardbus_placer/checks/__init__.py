"""The verifier's checks: each works out from the raw inputs what a plan claims, without any of the planner's code."""
