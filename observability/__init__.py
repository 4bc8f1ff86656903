"""What is watched, and when somebody is called: dashboards and alerts. Nothing here runs within a service."""
