"""Messages for chats: what an event says (`saying`), each chat's markup (`markup`), and its requests (`presets`)."""
