package consultest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
)

// ports holds the ports of one server, all on 127.0.0.1.
type ports struct{ http, server, serf int }

func freePorts() (ports, error) {
	found, err := FreePorts(3)
	if err != nil {
		return ports{}, err
	}
	return ports{http: found[0], server: found[1], serf: found[2]}, nil
}

// FreePorts returns n free ports below the kernel's ephemeral range (32768 and up), so
// that no outgoing connection takes one before the server binds it or while the server is
// down.
func FreePorts(n int) ([]int, error) {
	const lowest, highest = 20000, 32000
	var found []int
	for range 1000 {
		port := lowest + rand.IntN(highest-lowest)
		if slices.Contains(found, port) || !free(port) {
			continue
		}
		if found = append(found, port); len(found) == n {
			return found, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports between %d and %d: they are taken", n, lowest, highest)
}

// free reports whether a port is free for both TCP and UDP, because serf uses both.
func free(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	defer udp.Close()
	return true
}
