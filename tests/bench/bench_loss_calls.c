/*
 * Makes receives that find nothing, so many a second, for so many seconds: bench_loss_calls RATE SECONDS.
 * Waits for a byte on its standard input first; prints how many it has made, in how many seconds.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* in the vDSO: no system call */
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int count, char **argument)
{
    long long rate = count > 1 ? atoll(argument[1]) : 200000;
    long long seconds = count > 2 ? atoll(argument[2]) : 10;
    int ends[2];
    char byte;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || read(0, &byte, 1) != 1)
        return 1;
    long long begin = now(), made = 0, time;
    while ((time = now() - begin) < seconds * 1000000000LL)
        if (made < time / 1000 * rate / 1000000) {
            recv(ends[0], &byte, 1, MSG_DONTWAIT);
            made++;
        }
    printf("%lld %.3f\n", made, (now() - begin) / 1e9);
    return 0;
}
