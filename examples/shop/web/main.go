// Command web is the shop's front: it answers GET /buy/ITEM with what orders
// says.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"time"
)

// greeting is what the demo changes to make a binary with another digest.
var greeting = "welcome to the shop"

// orders is where the Envoy beside this program takes requests for orders.
const orders = "http://127.77.0.1:4000"

func main() {
	client := &http.Client{Timeout: 5 * time.Second}
	http.HandleFunc("GET /buy/{item}", func(w http.ResponseWriter, r *http.Request) {
		out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, orders+"/orders/"+r.PathValue("item"), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// The trace goes on through the application.
		out.Header.Set("traceparent", r.Header.Get("traceparent"))
		resp, err := client.Do(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		fmt.Fprintf(w, "%s: ", greeting)
		if _, err := io.Copy(w, resp.Body); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe("127.77.1.1:8080", nil))
}
