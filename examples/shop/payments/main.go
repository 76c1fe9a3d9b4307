// Command payments answers GET /payments/ITEM.
package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	http.HandleFunc("GET /payments/{item}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s is paid\n", r.PathValue("item"))
	})
	log.Fatal(http.ListenAndServe("127.77.1.3:8080", nil))
}
