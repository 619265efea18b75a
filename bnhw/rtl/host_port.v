// The host's way to the memories while the engine is idle: words in beats of HOST_BITS, lowest first. A beat passes where
// valid and ready are 1. All beats of a word name the same memory and address; the last one writes it. One beat with
// write = 0 asks for a word, which comes back as so many answers, one a cycle. Memories are numbered as below; a word of
// the activation memory is one bank's, its address: word * banks + bank.
module host_port #(
    parameter HOST_BITS = 32,
    parameter WORD_BITS = 64,           // widest word, a multiple of HOST_BITS
    parameter ACTIVATION_BEATS = 1,
    parameter RESIDUAL_BEATS = 1,
    parameter WEIGHT_BEATS = 1,
    parameter CONSTANT_BEATS = 1,
    parameter THRESHOLD_BEATS = 1,
    parameter LOOKUP_BEATS = 1,
    parameter CLASS_BEATS = 1,
    parameter DESCRIPTOR_BEATS = 1
) (
    input clk,
    input reset,
    input idle,
    input host_valid,
    output host_ready,
    input host_write,
    input [2:0] host_memory,
    input [23:0] host_address,
    input [HOST_BITS-1:0] host_data,
    output host_answer_valid,
    output [HOST_BITS-1:0] host_answer,
    output reg [7:0] write,             // to one memory, in the cycle behind a word's last beat
    output reg [7:0] read,
    output reg [23:0] address,
    output reg [WORD_BITS-1:0] word,
    input [WORD_BITS-1:0] read_word     // in the cycle behind `read`
);
    reg [15:0] beats;
    always @* begin
        case (host_memory)
            3'd0: beats = ACTIVATION_BEATS[15:0];
            3'd1: beats = RESIDUAL_BEATS[15:0];
            3'd2: beats = WEIGHT_BEATS[15:0];
            3'd3: beats = CONSTANT_BEATS[15:0];
            3'd4: beats = THRESHOLD_BEATS[15:0];
            3'd5: beats = LOOKUP_BEATS[15:0];
            3'd6: beats = CLASS_BEATS[15:0];
            default: beats = DESCRIPTOR_BEATS[15:0];
        endcase
    end

    reg [15:0] beat, answers;
    reg reading, fetched;
    assign host_ready = idle && !reading && !fetched && answers == 0;
    wire take = host_valid && host_ready;
    wire last_beat = beat + 16'd1 == beats;
    assign host_answer_valid = answers != 0;
    assign host_answer = word[HOST_BITS-1:0];

    always @(posedge clk) begin
        write <= 0;
        read <= 0;
        if (reset) begin
            beat <= 0;
            answers <= 0;
            reading <= 0;
            fetched <= 0;
        end else begin
            if (take) begin
                address <= host_address;
                if (host_write) begin
                    word[beat*HOST_BITS +: HOST_BITS] <= host_data;
                    beat <= last_beat ? 16'd0 : beat + 16'd1;
                    if (last_beat) write <= 8'd1 << host_memory;
                end else begin
                    read <= 8'd1 << host_memory;
                    reading <= 1;
                end
            end
            if (reading) begin
                reading <= 0;
                fetched <= 1;
            end
            if (fetched) begin
                fetched <= 0;
                word <= read_word;
                answers <= read_beats;
            end
            if (answers != 0) begin
                answers <= answers - 16'd1;
                word <= word >> HOST_BITS;
            end
        end
    end

    reg [15:0] read_beats;
    always @(posedge clk) if (take) read_beats <= beats;
endmodule
