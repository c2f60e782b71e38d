"""Access: who asks, which devices and how much memory they may use, until when."""
