#include "cli/cli.h"
#include "proto/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: rung keys make FILE     make this node's key pair; FILE is new, for its owner's eyes only (mode 0600)\n"
    "       rung keys show FILE     print the public key of a pair\n"
    "       rung keys check FILE    read a file of allowed peers and say who is in it\n"
    "\n"
    "Nodes that talk over TCP know each other by CURVE keys. For an edge and its region:\n"
    "\n"
    "    edge$    rung keys make /etc/rung/edge.key          zmq.keys_file of the edge\n"
    "    region$  rung keys make /etc/rung/region.key        zmq.keys_file of the region\n"
    "    edge$    rung keys show /etc/rung/edge.key          prints EDGE-KEY\n"
    "    region$  rung keys show /etc/rung/region.key        prints REGION-KEY: server_key of the edge's peer backend\n"
    "    region$  echo 'EDGE-KEY edge-1' >> /etc/rung/peers  zmq.peers_file of the region; edge-1 is the edge's node.id\n"
    "\n"
    "Only public keys travel. A key that is not in the region's peers_file is refused and counted, and so is a node that\n"
    "calls itself otherwise than the file does. Taking a line out shuts that peer out from the next start on.\n"
    "\n"
    "exit code: 0 done, 1 failed, 2 used wrongly\n";

static int failed(const struct err *e)
{
    (void)fprintf(stderr, "rung keys: %s\n", e->msg);
    return CLI_FAILED;
}

/* The key itself on stdout, so that a script can take it; what to do with it on stderr. */
static int keys_make(const char *path)
{
    struct link_keys keys;
    struct err e = {0};
    if (link_keys_make(&keys, &e) != ERR_OK || link_keys_write(&keys, path, &e) != ERR_OK) return failed(&e);
    (void)printf("%s\n", keys.public_key);
    (void)fprintf(stderr, "wrote %s; above is its public key, for the other side's peers_file or server_key\n", path);
    return CLI_OK;
}

static int keys_show(const char *path)
{
    struct link_keys keys;
    struct err e = {0};
    if (link_keys_read(&keys, path, &e) != ERR_OK) return failed(&e);
    (void)printf("%s\n", keys.public_key);
    return CLI_OK;
}

static int keys_check(const char *path)
{
    struct link_peer_key *keys = NULL;
    struct err e = {0};
    int count = 0;
    if (link_peers_read(&keys, &count, path, &e) != ERR_OK) return failed(&e);
    for (int i = 0; i < count; i++) (void)printf("%s %s\n", keys[i].public_key, keys[i].name);
    (void)fprintf(stderr, "%d %s\n", count, count == 1 ? "key" : "keys");
    free(keys);
    return CLI_OK;
}

int cmd_keys(int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        (void)fputs(HELP, stdout);
        return CLI_OK;
    }
    if (argc == 3 && strcmp(argv[1], "make") == 0) return keys_make(argv[2]);
    if (argc == 3 && strcmp(argv[1], "show") == 0) return keys_show(argv[2]);
    if (argc == 3 && strcmp(argv[1], "check") == 0) return keys_check(argv[2]);
    (void)fputs(HELP, stderr);
    return CLI_USAGE;
}
