{{/* Pieces of network policies. */}}

{{/* (list $ part…): the pods of these parts, as peers. */}}
{{- define "tally.peers" -}}
{{- $root := first . -}}
{{- range rest . }}
- podSelector:
    matchLabels:
      {{- include "tally.selector" (list $root .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* (list cidr…): addresses, as peers. */}}
{{- define "tally.addresses" -}}
{{- range . }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end -}}

{{/* (list port…): TCP ports. */}}
{{- define "tally.ports" -}}
{{- range . }}
- protocol: TCP
  port: {{ int . }}
{{- end }}
{{- end -}}

{{/* Names are resolved. */}}
{{- define "tally.toDNS" -}}
- to:
    {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
  ports:
    - protocol: UDP
      port: 53
    - protocol: TCP
      port: 53
{{- end -}}

{{/* (list $ name): a service, and whoever migrates for it, reach its database. */}}
{{- define "tally.toDatabase" -}}
{{- $root := first . -}}
{{- $mode := $root.Values.databases.mode -}}
- to:
    {{- if eq $mode "bundled" }}
    {{- include "tally.peers" (list $root (printf "%s-database" (last .))) | nindent 4 }}
    {{- else if eq $mode "cloudnative-pg" }}
    - podSelector:
        matchLabels:
          cnpg.io/cluster: {{ include "tally.database" . }}
    {{- else }}
    {{- include "tally.addresses" $root.Values.networkPolicy.external.cidrs | nindent 4 }}
    {{- end }}
  ports:
    {{- include "tally.ports" (ternary $root.Values.networkPolicy.external.databasePorts (list 5432) (eq $mode "external")) | nindent 4 }}
{{- end -}}

{{/* The class and the certificate of every Ingress. */}}
{{- define "tally.ingress" -}}
{{- with .Values.ingress.className }}
ingressClassName: {{ . }}
{{- end }}
{{- with .Values.ingress.tlsSecret }}
tls:
  - secretName: {{ . }}
    {{- with $.Values.ingress.host }}
    hosts: [{{ . | quote }}]
    {{- end }}
{{- end }}
{{- end -}}

{{/* (list $ path type part): a path of an Ingress. */}}
{{- define "tally.ingressPath" -}}
- path: {{ index . 1 | quote }}
  pathType: {{ index . 2 }}
  backend:
    service:
      name: {{ include "tally.name" (list (first .) (last .)) }}
      port:
        name: http
{{- end -}}
