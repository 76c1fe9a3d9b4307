// Command inventory answers lines of the form "STOCK ITEM" over TCP.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"strings"
)

func main() {
	l, err := net.Listen("tcp", "127.77.1.4:9000")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn)
	}
}

func serve(conn net.Conn) {
	defer conn.Close()
	for s := bufio.NewScanner(conn); s.Scan(); {
		item, ok := strings.CutPrefix(s.Text(), "STOCK ")
		if !ok {
			return
		}
		fmt.Fprintf(conn, "7 of %s in stock\n", item)
	}
}
