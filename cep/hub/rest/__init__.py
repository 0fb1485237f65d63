"""The REST routes of the hub, as globus-compute-sdk 2.19 and 4.19 call them."""
