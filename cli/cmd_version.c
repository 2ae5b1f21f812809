#include "cli/cli.h"

#include <stdio.h>

int cmd_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    (void)printf("rung %s\n", RUNG_VERSION);
    return CLI_OK;
}
