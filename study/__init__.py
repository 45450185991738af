"""What only measures, and what that shares with the lessons and the tests (`common`). Nothing here is served."""
