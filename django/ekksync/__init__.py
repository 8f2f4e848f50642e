"""Django's side of ekksync, the PostgreSQL extension that keeps a member
registry and a Firestore database in step."""
