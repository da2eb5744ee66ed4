/* An upper-case echo that costs next to nothing beside the kernel's TCP: the peer against which the
 * load generator's own limit is measured. One thread, level-triggered epoll; several of them can
 * share a port (SO_REUSEPORT): bench_load_peer PORT, 0 for any; prints the port. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, BUFFER = 65536 };

static void watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void answer(int fd)
{
	static char buffer[BUFFER];
	ssize_t got = recv(fd, buffer, sizeof(buffer), 0);

	for (ssize_t i = 0; i < got; i++)
		if (buffer[i] >= 'a' && buffer[i] <= 'z')
			buffer[i] -= 'a' - 'A';
	if (got <= 0 || send(fd, buffer, got, MSG_NOSIGNAL) < 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t length = sizeof(address);
	struct epoll_event events[EVENTS];
	int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), one = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, SOMAXCONN)) {
		perror("bench_load_peer");
		return 1;
	}
	getsockname(listener, (struct sockaddr *)&address, &length);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	watch(epoll, listener);
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;

			if (fd == listener) {
				fd = accept(listener, NULL, NULL);
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				watch(epoll, fd);
			} else {
				answer(fd);
			}
		}
	}
}
