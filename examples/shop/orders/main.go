// Command orders answers GET /orders/ITEM: it asks payments over HTTP and
// inventory over TCP.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

// Where the Envoy beside this program takes what goes out.
const (
	payments  = "http://127.77.0.2:4000"
	inventory = "127.77.0.2:4001"
)

var client = &http.Client{Timeout: 5 * time.Second}

func main() {
	http.HandleFunc("GET /orders/{item}", order)
	log.Fatal(http.ListenAndServe("127.77.1.2:8080", nil))
}

func order(w http.ResponseWriter, r *http.Request) {
	item := r.PathValue("item")
	stock, err := askInventory(item)
	if err != nil {
		http.Error(w, "inventory: "+err.Error(), http.StatusBadGateway)
		return
	}
	code, paid, err := askPayments(r, item)
	if err != nil {
		http.Error(w, "payments: "+err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(code)
	fmt.Fprintf(w, "%s, %s\n", stock, paid)
}

func askPayments(r *http.Request, item string) (code int, text string, err error) {
	out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, payments+"/payments/"+item, nil)
	if err != nil {
		return 0, "", err
	}
	out.Header.Set("traceparent", r.Header.Get("traceparent"))
	resp, err := client.Do(out)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

// askInventory sends one line and reads one. The connection is one of many, so
// that every question is authorized.
func askInventory(item string) (string, error) {
	conn, err := net.DialTimeout("tcp", inventory, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	fmt.Fprintf(conn, "STOCK %s\n", item)
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
