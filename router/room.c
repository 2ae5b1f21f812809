/* Keeps the room's library from being empty until its first file lands. */
typedef int router_room;
