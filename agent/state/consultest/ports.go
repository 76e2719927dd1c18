package consultest

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// ports are the ports of one server; all on 127.0.0.1.
type ports struct{ http, server, serf int }

// freePorts finds ports below the kernel's ephemeral range (32768 and up), so
// that no outgoing connection takes one while the server is down.
func freePorts() (ports, error) {
	const lowest, highest = 20000, 32000
	var found []int
	for range 1000 {
		port := lowest + rand.IntN(highest-lowest)
		if !free(port) {
			continue
		}
		found = append(found, port)
		if len(found) == 3 {
			return ports{http: found[0], server: found[1], serf: found[2]}, nil
		}
	}
	return ports{}, fmt.Errorf("find three free ports between %d and %d: all are taken", lowest, highest)
}

// free tells whether a port can be had for TCP and for UDP (serf uses both).
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
