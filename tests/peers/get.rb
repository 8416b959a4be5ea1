# Fetches a page with Ruby's own client: ruby get.rb URL
require "net/http"
response = Net::HTTP.get_response(URI(ARGV.fetch(0)))
puts "ruby #{response.code} #{response.body.strip}"
