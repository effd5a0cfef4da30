"""What is made of records for people to read: pages of single ones, and the postmortem of an incident."""
