package request

import (
	"net"
	"strconv"
)

// String is the address as Envoy writes it: 127.0.0.1:80, [::1]:80 or the path of
// a Unix socket.
func (a Address) String() string {
	switch {
	case a.Pipe != "":
		return a.Pipe
	case a.IP != "" || a.Port != 0:
		return net.JoinHostPort(a.IP, strconv.FormatUint(uint64(a.Port), 10))
	case a.Other:
		return "of another kind"
	}
	return ""
}
